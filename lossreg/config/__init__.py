"""Options of calculators, registries of their names, and config files that make them."""
