"""The Open Inference Protocol over gRPC: the service inference.GRPCInferenceService, as far as REST offers it.

Its process alone imports what is below here, for grpcio and protobuf come with the extra `grpc` only.
"""
