"""From text to values: mappings read into dataclasses, free-form sections, references to the user's code."""
