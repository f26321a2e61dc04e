"""The parts of ``python -m xmixup_fast.compare``: what is run, where results are kept, and what is made of them."""
