"""The supervisor: owns the containers' life cycle and records; serves the API (wired in ``main``)."""
