"""What each method does: services bound to classes of the tree, functions of (context, request)."""
