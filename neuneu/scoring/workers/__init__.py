"""Workers: engines in processes of their own, attempts, and the fan-out over Ray."""
