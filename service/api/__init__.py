"""The service's HTTP and gRPC interfaces. Knows nothing about processes."""
