"""What every generated Python client begins with, and how the probe asks a server. It imports nothing else of exportkit."""
