"""A text source for exportkit: another source's model, served sentences instead of ids."""
