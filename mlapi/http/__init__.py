"""HTTP around the views: request bodies, forms, downloads, problem documents, and the guard tween."""
