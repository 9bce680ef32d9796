"""Views: the methods of resources, as functions of (context, request)."""
