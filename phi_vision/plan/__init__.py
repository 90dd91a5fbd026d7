"""What a training will take, said before it is spent: tokens, memory, time, cards."""
