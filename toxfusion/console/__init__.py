"""What a command says while it works: how far it is, and what to do next."""
