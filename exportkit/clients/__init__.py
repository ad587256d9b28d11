"""A version's contract with its clients, the clients that are generated from it, and the probe of a live server."""
