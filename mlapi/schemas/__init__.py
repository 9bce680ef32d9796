"""Colander schemas of request bodies, query strings, headers and form fields."""
