"""What tests build their state with."""
