"""Pictures of digits to 28x28 arrays."""
