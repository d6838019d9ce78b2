"""Manifests for Kubernetes, and the check that holds them against the service, without a cluster."""
