"""The shapes of Docker's Engine API: what clients send, to requests of the supervisor's, and what they get."""
