"""Proofs: parity with the training graph before publication, an audit of the published version after it."""
