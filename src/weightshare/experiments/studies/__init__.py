"""What tables are made of, and studies that are no table: protocols, trainings of their own, simulations, pictures."""
