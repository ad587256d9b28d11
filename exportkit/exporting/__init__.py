"""Carries out a plan: build, prune, bind, write, run the steps, commit."""
