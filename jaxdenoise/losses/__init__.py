"""Losses as pure functions.

`per_token` says what a position costs, `terms` sums up, `sequences` has the losses that papers
name, `projected` the same sums from hidden states, without the logits.
"""

from jaxdenoise.losses.per_token import Loss as Loss
from jaxdenoise.losses.per_token import cross_entropy as cross_entropy
from jaxdenoise.losses.per_token import smoothed_cross_entropy as smoothed_cross_entropy
from jaxdenoise.losses.per_token import soft_cross_entropy as soft_cross_entropy
from jaxdenoise.losses.per_token import z_losses as z_losses
from jaxdenoise.losses.projected import projected_terms as projected_terms
from jaxdenoise.losses.projected import projected_values as projected_values
from jaxdenoise.losses.sequences import causal_lm_terms as causal_lm_terms
from jaxdenoise.losses.sequences import masked_lm_terms as masked_lm_terms
from jaxdenoise.losses.sequences import subsequence_terms as subsequence_terms
from jaxdenoise.losses.sequences import target_sequence_terms as target_sequence_terms
from jaxdenoise.losses.terms import checked as checked
from jaxdenoise.losses.terms import denominator as denominator
from jaxdenoise.losses.terms import loss_terms as loss_terms
from jaxdenoise.losses.terms import mean_loss as mean_loss
from jaxdenoise.losses.terms import sequence_weights as sequence_weights
from jaxdenoise.losses.terms import sum_up as sum_up
