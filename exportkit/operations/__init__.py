"""What the operations of bindings are: what each offers, feeds and is computed from."""
