"""The v2 guide's names for two scripts that lie at the root."""
