"""What the hardware offers, with no maths in it: compilation, threads, buffers, facts about the CPU."""
