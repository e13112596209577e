"""What a training run leaves behind: written whole, opened with care, moved to and from the Hub."""
