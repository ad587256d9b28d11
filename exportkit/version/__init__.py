"""A version on disk: claimed, identified, described, signed and found again."""
