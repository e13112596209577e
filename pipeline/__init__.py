"""The parts every generation needs. Import the module you need; this package re-exports nothing."""
