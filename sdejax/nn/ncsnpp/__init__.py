"""The DDPM, DDPM++ and NCSN++ family."""
