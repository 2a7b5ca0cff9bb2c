"""Does comparing images resist a score that can be hacked? Pref-GRPO against pointwise GRPO on the digits."""
