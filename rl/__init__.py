"""Training a policy by reward, whatever the policy."""
