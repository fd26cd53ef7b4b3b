"""Every key of a run, once, with its unit. Recipes change a few of them; `--config.path=value` changes any.

Alone it is plain REINFORCE with a PPO clip on the embedded model: no baseline, no filter, no KL.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0  # seeds prompts' order and every sampled token
    c.run_dir = "runs/base"  # checkpoints, metrics, samples and the report go here
    c.steps = 60  # rollout steps

    c.model = ConfigDict()
    # "embedded:tiny" (in the package), a Hugging Face folder or Hub id, a .gguf file, or "package:NAME/FILE.gguf"
    c.model.source = "embedded:tiny"
    # what a critic (algorithm.baseline critic) starts from: another checkpoint, of any architecture, with the policy's
    # tokenizer; None: a copy of the policy
    c.model.critic_source = placeholder(str)
    c.model.dtype = "float32"  # compute dtype: float32 or bfloat16; statistics and log-probs are float32
    c.model.param_dtype = "float32"  # of the parameters in memory, as loaded: float32 or bfloat16
    # what the backward pass recomputes: none, dots (all but matmuls), mlp (those of the MLP too), layer (whole layers)
    c.model.remat = "none"
    # of scoring and update: auto (the device's kernel where it can run), xla, splash (TPU), cudnn (GPU, bfloat16)
    c.model.attention = "auto"

    c.lora = ConfigDict()  # a low-rank adapter, which alone is trained; all None: every parameter is
    c.lora.rank = placeholder(int)
    c.lora.alpha = placeholder(float)  # the adapter's product is multiplied by alpha / rank
    # "all-linear" (every matrix of a layer but experts and their router), or a regular expression that the Hugging Face
    # name of a module within its layer matches fully, such as r"self_attn\.(q|v)_proj"
    c.lora.targets = placeholder(str)
    c.lora.rank_stabilized = placeholder(bool)  # multiplied by alpha / sqrt(rank) (rsLoRA)

    c.data = ConfigDict()
    # "task:NAME" (built in), "jsonl:PATH" (one file), or "hub:NAME" (a Hugging Face dataset)
    c.data.source = "task:chain_sum"
    c.data.tier = "easy"  # easy, medium, hard; built-in tasks only
    c.data.split = "train"  # of the source; built-in tasks have train and held_out
    c.data.question_key = "question"  # of a row; jsonl and hub
    c.data.answer_key = "answer"
    c.data.source_key = placeholder(str)  # names the source of a row, of mixed data; jsonl and hub; None: no sources
    # "chat": the tokenizer's chat template with the system message; else a text in which {question} is replaced
    c.data.template = "{question}"
    c.data.system = ""  # system message of the chat template; empty for none
    c.data.max_prompt_tokens = 32
    c.data.long_prompts = "error"  # a prompt over the limit: error, or drop
    c.data.prompts_per_step = 16  # P
    c.data.samples_per_prompt = 8  # G

    c.sampling = ConfigDict()
    c.sampling.max_tokens = 48  # T, tokens of a completion
    c.sampling.temperature = 1.0
    c.sampling.top_k = 0  # tokens kept; 0 keeps all
    c.sampling.top_p = 1.0  # mass kept; 1 keeps all
    c.sampling.min_p = 0.0  # kept: at least this share of the likeliest token's probability; 0 keeps all
    c.sampling.stop = ()  # texts, each one token of the tokenizer, that end a completion beside its end-of-text tokens

    c.reward = ConfigDict()
    c.reward.verifier = "exact"  # exact (same text after normalization), math (math-verify) or program (run on tests)
    # Where it stands: boxed, hash (after ####), first_number, last_number, any; of program: code (the last ``` block).
    c.reward.answer_format = "hash"
    c.reward.correct = 1.0
    c.reward.wrong = 0.0
    c.reward.unparseable = 0.0  # no answer of that format in the text
    c.reward.timeout = 0.0  # the verifier ran out of time
    c.reward.truncated = placeholder(float)  # reward of every truncated row; None: judged like any other
    c.reward.timeout_seconds = 5.0  # for one answer; of program, for one test
    c.reward.sandbox = "bubblewrap"  # of programs; none: they run with the rights of this process

    c.algorithm = ConfigDict()
    # Rewards beside the judge's; each is a number of at most size 1, times its coefficient. Off: 0 or none.
    c.algorithm.format_coefficient = 0.0  # for every completion in which an answer of reward.answer_format stands
    c.algorithm.overlong_buffer = 0  # soft penalty over the last this many tokens before the limit; 0: off
    c.algorithm.overlong_penalty = placeholder(float)  # its size at the limit
    # penalty for length: none, linear (-length / limit), group_relative (Kimi k1.5), cosine (long right, short wrong)
    c.algorithm.length_penalty = "none"
    c.algorithm.length_coefficient = placeholder(float)
    c.algorithm.repetition_coefficient = 0.0  # times the share of n-grams that came before
    c.algorithm.repetition_ngram = placeholder(int)  # tokens of an n-gram
    c.algorithm.reward_combination = "sum"  # of several rewards: sum, or separate (each normalized by itself, GDPO)
    # taken from the reward: none, group (mean), batch (mean), leave_one_out, running (mean), length_weighted (OPO),
    # pass_at_k (best less second best), greedy (ReMax), optimal_token (OTB), critic (GAE)
    c.algorithm.baseline = "none"
    # the rest is divided by std + epsilon, the std of: none, group, batch, batch_centered (of r - group mean), running;
    # or by nonzero_share, the share of rows whose reward is not 0 (GPG)
    c.algorithm.scale = "none"
    c.algorithm.scale_ddof = 1  # std divides by count - ddof
    c.algorithm.scale_epsilon = 1e-6
    c.algorithm.batch_statistics = "step"  # what "batch" means: all rows of the step, or those of the same source
    c.algorithm.reward_clip = placeholder(float)  # after baseline and scale, to +-this; None: off
    c.algorithm.discount = 1.0  # of the return, for each token of the policy between here and the end
    c.algorithm.gae_lambda = placeholder(float)  # of the advantages; critic only
    c.algorithm.gae_lambda_returns = placeholder(float)  # of the returns that the critic learns; critic only
    c.algorithm.gae_length_alpha = placeholder(float)  # λ = 1 - 1 / (alpha · length) in place of gae_lambda (VAPO)
    c.algorithm.whiten = False  # advantages to mean 0 and std 1 over the tokens of the step
    c.algorithm.advantage_clip = placeholder(float)  # to +-this; None: off
    # policy loss of a token: ppo_clip, reinforce (-A log p), cispo, sapo, gmpo, topr, kimi, vespo, dppo, clip_cov,
    # kl_cov
    c.algorithm.surrogate = "ppo_clip"
    # level of the importance ratio: token, sequence (GSPO), sequence_token (GSPO-token), sequence_product
    c.algorithm.ratio = "token"
    # ppo_clip, cispo, clip_cov: the ratio's bounds are [1 - clip_low, 1 + clip_high]; gmpo: those of the log-ratio are
    # [-clip_low, clip_high]; dppo: those of p - p_old are [-clip_low, clip_high]
    c.algorithm.clip_low = 0.2
    c.algorithm.clip_high = 0.2
    c.algorithm.dual_clip = placeholder(float)  # for A < 0 the loss is at most dual_clip * |A|; None: off
    c.algorithm.ratio_cap = placeholder(float)  # the unclipped ratio is at most this (TRL's delta); None: off
    c.algorithm.drop_clipped = False  # cispo: tokens that PPO's clip would stop have no gradient
    c.algorithm.sapo_temperature_positive = placeholder(float)  # of the gate where A > 0
    c.algorithm.sapo_temperature_negative = placeholder(float)
    c.algorithm.topr_weight_positive = placeholder(float)  # of rows whose judged reward is above 0
    c.algorithm.topr_weight_negative = placeholder(float)
    c.algorithm.square_coefficient = placeholder(float)  # kimi, dppo: times the squared log-ratio (kimi: tau / 2)
    c.algorithm.vespo_k_positive = placeholder(float)  # A >= 0: the weight is w^k exp(lambda (1 - w))
    c.algorithm.vespo_lambda_positive = placeholder(float)
    c.algorithm.vespo_k_negative = placeholder(float)
    c.algorithm.vespo_lambda_negative = placeholder(float)
    c.algorithm.dppo_by_sign = placeholder(bool)  # a bound holds only where it is left in the direction of A
    c.algorithm.cov_low = placeholder(float)  # clip_cov: candidates have a covariance of A and log p in between
    c.algorithm.cov_high = placeholder(float)
    c.algorithm.cov_share = placeholder(float)  # clip_cov, kl_cov: share of tokens that are treated apart
    c.algorithm.kl_cov_coefficient = placeholder(float)  # kl_cov: times |log-ratio| at those tokens
    c.algorithm.old_logprobs = "sampler"  # ratio against: sampler (as sampled), trainer (scored before the update)
    c.algorithm.top_entropy_share = placeholder(float)  # only this share of tokens, of largest entropy; None: all
    c.algorithm.bad_row_threshold = placeholder(float)  # nats; rows with A < 0 further from the sampler are left out
    c.algorithm.positive_nll_coefficient = 0.0  # times -log p of rows whose judged reward is above 0 (VAPO)
    # weights for the gap between trainer (old_logprobs) and sampler: none, truncate (to the bounds), mask (0 outside)
    c.algorithm.correction = "none"
    c.algorithm.correction_level = placeholder(str)  # token, segment, sequence (product), geometric (mean)
    c.algorithm.correction_low = placeholder(float)  # None: open
    c.algorithm.correction_high = placeholder(float)
    c.algorithm.correction_normalize = "none"  # weights to mean 1 over: none, tokens, rows
    c.algorithm.rejection = "none"  # drops tokens or rows by an estimate of KL(sampler, trainer): none, k1, k2, k3
    c.algorithm.rejection_level = placeholder(str)  # token, sequence_sum, sequence_mean, sequence_max
    c.algorithm.rejection_low = placeholder(float)  # nats; None: open
    c.algorithm.rejection_high = placeholder(float)
    c.algorithm.kl_placement = "none"  # KL to the starting policy: none, loss, reward
    # k1 (not in the loss), k2, k3, absolute, exact (over the whole vocabulary)
    c.algorithm.kl_estimator = placeholder(str)
    c.algorithm.kl_coefficient = 0.0  # with kl_target: where it starts
    c.algorithm.kl_importance = False  # in the loss, times the importance ratio, with gradient
    c.algorithm.kl_target = placeholder(float)  # nats a token; None: the coefficient is fixed
    c.algorithm.kl_horizon = placeholder(int)  # completions over which the coefficient adapts
    c.algorithm.entropy_coefficient = 0.0  # with entropy_target: where it starts
    c.algorithm.entropy_target = placeholder(float)  # nats a token; None: the coefficient is fixed
    c.algorithm.entropy_step = placeholder(float)  # added to the coefficient below the target, taken from it above
    c.algorithm.critic_learning_rate = placeholder(float)
    c.algorithm.critic_warmup = placeholder(int)  # rollout steps in which only the critic learns
    c.algorithm.value_clip = placeholder(float)  # values stay within +-this of the old ones; None: off
    # the loss is a weighted sum over tokens: token_mean, sequence_mean, prompt_mean, sequence_sum, constant
    c.algorithm.aggregation = "token_mean"
    c.algorithm.aggregation_constant = placeholder(float)  # tokens per row that "constant" divides by; None: max_tokens
    c.algorithm.overlong_filter = False  # truncated rows get no gradient
    # groups that are dropped: none, zero_variance (rewards all equal), difficulty (share of right answers not between)
    c.algorithm.group_filter = "none"
    c.algorithm.difficulty_low = placeholder(float)  # both bounds are excluded
    c.algorithm.difficulty_high = placeholder(float)
    c.algorithm.resample_rounds = 1  # rollouts a step may take to fill the batch with kept groups; 1: never refill

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 5e-5  # for the embedded model; models a thousand times its size take 1e-6
    c.optimizer.warmup_steps = 10  # optimizer steps of linear warm-up
    c.optimizer.schedule = "constant"  # after the warm-up: constant, linear or cosine decay to 0 at the last step
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.999
    c.optimizer.epsilon = 1e-8
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip_norm = placeholder(float)  # global gradient norm; None: off
    # of Adam's two moments as they are stored: float32, or bfloat16 (half the bytes; rounded at random, unbiased)
    c.optimizer.state_dtype = "float32"
    c.optimizer.offload = False  # moments lie in the hosts' memory between updates; no effect on a CPU's memory

    c.training = ConfigDict()
    c.training.epochs = 1  # passes over a rollout
    c.training.mini_batches = 1  # optimizer steps of a pass
    # Columns of one forward and backward pass on one device, padding included; 0: a whole mini-batch at once
    c.training.tokens_per_pass = 2048
    # A group's completions share one copy of their prompt, several in a lane; False: a row is a completion, padded
    c.training.pack = True
    c.training.skip_rows = True  # rows without gradient are not computed; their tokens count in no policy metric
    c.training.score_chunk = 256  # of so many tokens are logits held on a device at a time
    c.training.offload_reference = False  # the reference policy lies in the hosts' memory while nothing reads it
    # times the loss that balances experts (k, the experts of a token, if they are), over the tokens that are trained
    # on; not 0: of a model with experts, and no row is skipped
    c.training.balancing_coefficient = 0.0

    c.mesh = ConfigDict()  # devices along each axis; -1 takes the rest, on one axis at most
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.tensor = 1
    c.mesh.sequence = 1  # of the columns of a row, for long ones; in a rollout, of its rows

    c.distributed = ConfigDict()  # several processes; read with --distributed
    c.distributed.heartbeat_seconds = 60  # silence after which a process is dead, and all others end
    c.distributed.start_seconds = 600  # for all processes to come

    c.evaluation = ConfigDict()
    c.evaluation.every = 20  # rollout steps; also before the first and after the last; 0: never
    c.evaluation.source = "task:chain_sum"  # as data.source
    c.evaluation.tier = "easy"
    c.evaluation.split = "held_out"
    c.evaluation.question_key = "question"
    c.evaluation.answer_key = "answer"
    c.evaluation.source_key = placeholder(str)  # names the benchmark of a row, of several in one source; None: one
    c.evaluation.problems = 128  # the first this many rows
    c.evaluation.samples = 4  # k of avg@k, pass@k, maj@k
    c.evaluation.temperature = 1.0
    c.evaluation.top_k = 0
    c.evaluation.top_p = 1.0
    c.evaluation.texts = 4  # full texts written to samples.jsonl at each evaluation

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 20  # rollout steps; also after the last; 0: only the last
    c.checkpoint.keep = 2  # checkpoints kept

    c.log = ConfigDict()
    c.log.tensorboard = True
    # Rollout steps; at each, rollouts/step_000020.npz holds tokens, rewards and log-probabilities. 0: never
    c.log.rollouts_every = 0
    # repeat_ratio is the share of truncated completions that end in a loop: a block of at most `period` tokens that
    # stands there at least `repeats` times and fills the last `window` tokens
    c.log.loop = ConfigDict()
    c.log.loop.window = 16
    c.log.loop.period = 64
    c.log.loop.repeats = 3
    return c
