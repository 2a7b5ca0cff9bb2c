"""The peer's side of `bench.perf.grpo`: TRL's GRPO, asked for one step at a time over pipes.

Runs in a separate environment (`pip install trl`), as a script; imports nothing of this project. The first line of the
input describes the run; further ones are `{"logp": [prompt ids, response ids]}`, answered by the log-probabilities of
the response, and `{}`, answered by the figures of the next step.
"""

# ruff: noqa: E402 -- the settings must precede the first import of torch.
import os
import sys

# What the libraries print must not mix with the answers.
ANSWERS = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
os.environ['HF_HUB_OFFLINE'] = '1'

import json
import time

import datasets
import torch
import transformers
import trl

torch.set_num_threads(1)


def answer(line):
  """Answers a question."""
  print(json.dumps(line), file=ANSWERS, flush=True)


def variety(completions, **_):
  """The reward of `bench.perf.grpo`: different characters of a response, as a share of 64."""
  return [len(set(said[0]['content'])) / 64 for said in completions]


class Timed(trl.GRPOTrainer):
  """Takes the time of rollouts, and the tokens in them."""

  def _generate_and_score_completions(self, inputs):
    start = time.process_time()
    made = super()._generate_and_score_completions(inputs)
    self.rollout = {'rollout s': time.process_time() - start, 'tokens': int(made['completion_mask'].sum())}
    return made

  def log_probs(self, prompt, response):
    """Log-probabilities of a response."""
    ids = torch.tensor([prompt + response])
    options = {'attention_mask': torch.ones_like(ids), 'logits_to_keep': len(response)}
    with torch.no_grad():
      logp, *_ = self._get_per_token_logps_and_entropies(self.model, ids, **options)
    return logp[0].tolist()


class OnDemand(transformers.TrainerCallback):
  """Waits for a question before a step, and answers after it."""

  def __init__(self):
    self.trainer = None
    self.start = 0.0

  def on_step_begin(self, args, state, control, **_):
    """Answers questions until one asks for a step; ends the training at the end of the input."""
    for line in sys.stdin:
      asked = json.loads(line)
      if 'logp' not in asked:
        self.start = time.process_time()
        return
      answer(self.trainer.log_probs(*asked['logp']))
    sys.exit(0)

  def on_step_end(self, args, state, control, **_):
    """Answers with the figures of the step."""
    whole = time.process_time() - self.start
    rollout = self.trainer.rollout
    answer(rollout | {'update s': whole - rollout['rollout s']})


def main():
  """Trains until the input ends."""
  about = json.loads(sys.stdin.readline())
  config = trl.GRPOConfig(
    per_device_train_batch_size=about['responses'] // about['accumulate'],
    gradient_accumulation_steps=about['accumulate'],
    num_generations=about['group'],
    max_completion_length=about['max_new'],
    max_steps=len(about['conversations']) * about['group'] // about['responses'],
    learning_rate=about['lr'],
    lr_scheduler_type='constant',
    max_grad_norm=1.0,
    weight_decay=0.0,
    beta=0.0,
    epsilon=0.2,
    epsilon_high=0.28,
    loss_type='dapo',
    temperature=1.0,
    shuffle_dataset=False,
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=True,
    disable_tqdm=True,
    logging_strategy='no',
    save_strategy='no',
    report_to='none',
    output_dir=about['workdir'],
  )
  ask = OnDemand()
  ask.trainer = Timed(
    about['folder'],
    variety,
    args=config,
    train_dataset=datasets.Dataset.from_list([{'prompt': said} for said in about['conversations']]),
    processing_class=transformers.AutoTokenizer.from_pretrained(about['folder']),
    callbacks=[ask],
  )
  ask.trainer.train()


if __name__ == '__main__':
  main()
