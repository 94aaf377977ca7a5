"""Everything that can be set: fields, checks, presets, files, and what a recipe chooses. No torch here."""
