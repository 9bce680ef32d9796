"""HTTP around the views: requests, services, bodies, forms, downloads, problem documents, and the guard tween."""
