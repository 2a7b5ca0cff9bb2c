"""VibeVoice's diffusion head inside its solver: from noise to latents in one program (arXiv 2508.19205, §2.2)."""
