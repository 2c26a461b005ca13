"""What a program would take on TPUs or GPUs that are not here."""
