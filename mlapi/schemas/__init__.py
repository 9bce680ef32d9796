"""What is accepted: one colander schema for each request body and query string."""
