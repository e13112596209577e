"""The fit loop, the recipes that train several networks, and what they run on."""
