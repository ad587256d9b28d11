"""Presets for Hydra: `exportkit experiment=template_notice`."""
