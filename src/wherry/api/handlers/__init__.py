"""What answers a request, a file for each kind of resource."""
