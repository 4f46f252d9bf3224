"""HTTP without a word of containers: sockets and peers, requests and their bounds, replies and how they are sent."""
