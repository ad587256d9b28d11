"""The way of an export: build, prune, bind, write, run the steps, commit."""
