"""Does comparing images resist a score that can be hacked? Pref-GRPO beside pointwise GRPO on the digits."""
