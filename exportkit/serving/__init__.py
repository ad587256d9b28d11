"""A version run as a model server runs it, and what such a server reads and is sent."""
