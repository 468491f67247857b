// families: the tables. A new family is some rows here, and a row in model.c.
#include "families.h"

#include <stddef.h>

#define END {NULL, NULL, IGNORED, NONE, NONE, PLAIN}
#define L "model.layers.#."
static const Row decoder[] = {
    {"model.embed_tokens.weight", "token_embd.weight", NEEDED, VOCAB, D, PLAIN},
    {L "input_layernorm.weight", "blk.#.attn_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "self_attn.q_proj.weight", "blk.#.attn_q.weight", NEEDED, Q, D, PLAIN},
    {L "self_attn.k_proj.weight", "blk.#.attn_k.weight", NEEDED, KV, D, PLAIN},
    {L "self_attn.v_proj.weight", "blk.#.attn_v.weight", NEEDED, KV, D, PLAIN},
    {L "self_attn.o_proj.weight", "blk.#.attn_output.weight", NEEDED, D, Q, PLAIN},
    {L "post_attention_layernorm.weight", "blk.#.ffn_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "mlp.gate_proj.weight", "blk.#.ffn_gate.weight", NEEDED, FF, D, PLAIN},
    {L "mlp.up_proj.weight", "blk.#.ffn_up.weight", NEEDED, FF, D, PLAIN},
    {L "mlp.down_proj.weight", "blk.#.ffn_down.weight", NEEDED, D, FF, PLAIN},
    {"model.norm.weight", "output_norm.weight", NEEDED, D, NONE, PLAIN},
    {"lm_head.weight", "output.weight", UNLESS_TIED, VOCAB, D, PLAIN},
    {L "self_attn.rotary_emb.inv_freq", NULL, IGNORED, NONE, NONE, PLAIN},
    END,
}, llama[] = {                                             // with attention_bias
    {L "self_attn.q_proj.bias", "blk.#.attn_q.bias", OPTIONAL, Q, NONE, PLAIN},
    {L "self_attn.k_proj.bias", "blk.#.attn_k.bias", OPTIONAL, KV, NONE, PLAIN},
    {L "self_attn.v_proj.bias", "blk.#.attn_v.bias", OPTIONAL, KV, NONE, PLAIN},
    {L "self_attn.o_proj.bias", "blk.#.attn_output.bias", OPTIONAL, D, NONE, PLAIN},
    END,
}, qwen2[] = {
    {L "self_attn.q_proj.bias", "blk.#.attn_q.bias", NEEDED, Q, NONE, PLAIN},
    {L "self_attn.k_proj.bias", "blk.#.attn_k.bias", NEEDED, KV, NONE, PLAIN},
    {L "self_attn.v_proj.bias", "blk.#.attn_v.bias", NEEDED, KV, NONE, PLAIN},
    END,
}, qwen3[] = {
    {L "self_attn.q_norm.weight", "blk.#.attn_q_norm.weight", NEEDED, HD, NONE, PLAIN},
    {L "self_attn.k_norm.weight", "blk.#.attn_k_norm.weight", NEEDED, HD, NONE, PLAIN},
    END,
};
#undef L

// attn.bias, masked_bias and embed_positions are masks and tables that a program makes itself.
#define L "@h.#."
static const Row gpt[] = {
    {"@wte.weight", "token_embd.weight", NEEDED, VOCAB, D, PLAIN},
    {L "ln_1.weight", "blk.#.attn_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "ln_1.bias", "blk.#.attn_norm.bias", NEEDED, D, NONE, PLAIN},
    {"@ln_f.weight", "output_norm.weight", NEEDED, D, NONE, PLAIN},
    {"@ln_f.bias", "output_norm.bias", NEEDED, D, NONE, PLAIN},
    {"lm_head.weight", "output.weight", UNLESS_TIED, VOCAB, D, PLAIN},
    {L "attn.bias", NULL, IGNORED, NONE, NONE, PLAIN},
    {L "attn.masked_bias", NULL, IGNORED, NONE, NONE, PLAIN},
    END,
}, gpt2[] = {
    {"@wpe.weight", "position_embd.weight", NEEDED, POSITIONS, D, PLAIN},
    {L "attn.c_attn.weight", "blk.#.attn_qkv.weight", NEEDED, QKV, D, TURNED},
    {L "attn.c_attn.bias", "blk.#.attn_qkv.bias", NEEDED, QKV, NONE, PLAIN},
    {L "attn.c_proj.weight", "blk.#.attn_output.weight", NEEDED, D, Q, TURNED},
    {L "attn.c_proj.bias", "blk.#.attn_output.bias", NEEDED, D, NONE, PLAIN},
    {L "ln_2.weight", "blk.#.ffn_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "ln_2.bias", "blk.#.ffn_norm.bias", NEEDED, D, NONE, PLAIN},
    {L "mlp.c_fc.weight", "blk.#.ffn_up.weight", NEEDED, FF, D, TURNED},
    {L "mlp.c_fc.bias", "blk.#.ffn_up.bias", NEEDED, FF, NONE, PLAIN},
    {L "mlp.c_proj.weight", "blk.#.ffn_down.weight", NEEDED, D, FF, TURNED},
    {L "mlp.c_proj.bias", "blk.#.ffn_down.bias", NEEDED, D, NONE, PLAIN},
    END,
}, gptj[] = {
    {L "attn.q_proj.weight", "blk.#.attn_q.weight", NEEDED, Q, D, PLAIN},
    {L "attn.k_proj.weight", "blk.#.attn_k.weight", NEEDED, KV, D, PLAIN},
    {L "attn.v_proj.weight", "blk.#.attn_v.weight", NEEDED, KV, D, PLAIN},
    {L "attn.out_proj.weight", "blk.#.attn_output.weight", NEEDED, D, Q, PLAIN},
    {L "mlp.fc_in.weight", "blk.#.ffn_up.weight", NEEDED, FF, D, PLAIN},
    {L "mlp.fc_in.bias", "blk.#.ffn_up.bias", NEEDED, FF, NONE, PLAIN},
    {L "mlp.fc_out.weight", "blk.#.ffn_down.weight", NEEDED, D, FF, PLAIN},
    {L "mlp.fc_out.bias", "blk.#.ffn_down.bias", NEEDED, D, NONE, PLAIN},
    {"lm_head.bias", "output.bias", NEEDED, VOCAB, NONE, PLAIN},
    {L "attn.embed_positions", NULL, IGNORED, NONE, NONE, PLAIN},
    END,
};
#undef L

// The pooler and the next-sentence classifier are for tasks that are not computed here.
#define L "@encoder.layer.#."
static const Row encoder[] = {
    {"@embeddings.word_embeddings.weight", "token_embd.weight", NEEDED, VOCAB, D, PLAIN},
    {"@embeddings.position_embeddings.weight", "position_embd.weight", NEEDED, POSITIONS, D, CUT},
    {"@embeddings.token_type_embeddings.weight", "token_types.weight", NEEDED, TYPES, D, PLAIN},
    {"@embeddings.LayerNorm.weight", "token_embd_norm.weight", NEEDED, D, NONE, PLAIN},
    {"@embeddings.LayerNorm.bias", "token_embd_norm.bias", NEEDED, D, NONE, PLAIN},
    {L "attention.self.query.weight", "blk.#.attn_q.weight", NEEDED, Q, D, PLAIN},
    {L "attention.self.query.bias", "blk.#.attn_q.bias", NEEDED, Q, NONE, PLAIN},
    {L "attention.self.key.weight", "blk.#.attn_k.weight", NEEDED, KV, D, PLAIN},
    {L "attention.self.key.bias", "blk.#.attn_k.bias", NEEDED, KV, NONE, PLAIN},
    {L "attention.self.value.weight", "blk.#.attn_v.weight", NEEDED, KV, D, PLAIN},
    {L "attention.self.value.bias", "blk.#.attn_v.bias", NEEDED, KV, NONE, PLAIN},
    {L "attention.output.dense.weight", "blk.#.attn_output.weight", NEEDED, D, Q, PLAIN},
    {L "attention.output.dense.bias", "blk.#.attn_output.bias", NEEDED, D, NONE, PLAIN},
    {L "attention.output.LayerNorm.weight", "blk.#.attn_output_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "attention.output.LayerNorm.bias", "blk.#.attn_output_norm.bias", NEEDED, D, NONE, PLAIN},
    {L "intermediate.dense.weight", "blk.#.ffn_up.weight", NEEDED, FF, D, PLAIN},
    {L "intermediate.dense.bias", "blk.#.ffn_up.bias", NEEDED, FF, NONE, PLAIN},
    {L "output.dense.weight", "blk.#.ffn_down.weight", NEEDED, D, FF, PLAIN},
    {L "output.dense.bias", "blk.#.ffn_down.bias", NEEDED, D, NONE, PLAIN},
    {L "output.LayerNorm.weight", "blk.#.layer_output_norm.weight", NEEDED, D, NONE, PLAIN},
    {L "output.LayerNorm.bias", "blk.#.layer_output_norm.bias", NEEDED, D, NONE, PLAIN},
    {"@embeddings.position_ids", NULL, IGNORED, NONE, NONE, PLAIN},
    {"@embeddings.token_type_ids", NULL, IGNORED, NONE, NONE, PLAIN},
    {"@pooler.dense.weight", NULL, IGNORED, NONE, NONE, PLAIN},
    {"@pooler.dense.bias", NULL, IGNORED, NONE, NONE, PLAIN},
    END,
}, bert_head[] = {
    {"cls.predictions.transform.dense.weight", "mlm_dense.weight", NEEDED, D, D, PLAIN},
    {"cls.predictions.transform.dense.bias", "mlm_dense.bias", NEEDED, D, NONE, PLAIN},
    {"cls.predictions.transform.LayerNorm.weight", "mlm_norm.weight", NEEDED, D, NONE, PLAIN},
    {"cls.predictions.transform.LayerNorm.bias", "mlm_norm.bias", NEEDED, D, NONE, PLAIN},
    {"cls.predictions.bias", "mlm_output.bias", WHEN_TIED, VOCAB, NONE, PLAIN},
    {"cls.predictions.decoder.weight", "output.weight", UNLESS_TIED, VOCAB, D, PLAIN},
    {"cls.predictions.decoder.bias", "mlm_output.bias", UNLESS_TIED, VOCAB, NONE, PLAIN},
    {"cls.seq_relationship.weight", NULL, IGNORED, NONE, NONE, PLAIN},
    {"cls.seq_relationship.bias", NULL, IGNORED, NONE, NONE, PLAIN},
    END,
}, roberta_head[] = {
    {"lm_head.dense.weight", "mlm_dense.weight", NEEDED, D, D, PLAIN},
    {"lm_head.dense.bias", "mlm_dense.bias", NEEDED, D, NONE, PLAIN},
    {"lm_head.layer_norm.weight", "mlm_norm.weight", NEEDED, D, NONE, PLAIN},
    {"lm_head.layer_norm.bias", "mlm_norm.bias", NEEDED, D, NONE, PLAIN},
    {"lm_head.bias", "mlm_output.bias", WHEN_TIED, VOCAB, NONE, PLAIN},
    {"lm_head.decoder.weight", "output.weight", UNLESS_TIED, VOCAB, D, PLAIN},
    {"lm_head.decoder.bias", "mlm_output.bias", UNLESS_TIED, VOCAB, NONE, PLAIN},
    END,
};
#undef L

static const Keys modern = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "intermediate_size", "max_position_embeddings",
                            "rms_norm_eps", "hidden_act", 1e-6, true};
static const Keys early = {"n_embd", "n_layer", "n_head", NULL, "n_inner", "n_positions",
                           "layer_norm_epsilon", "activation_function", 1e-5, false};
static const Keys masked = {"hidden_size", "num_hidden_layers", "num_attention_heads", NULL,
                            "intermediate_size", "max_position_embeddings", "layer_norm_eps",
                            "hidden_act", 1e-12, false};

const Family families[] = {
    {"LlamaForCausalLM", "llama", "", {decoder, llama}, &modern, "silu", true, false, NEVER},
    {"MistralForCausalLM", "llama", "", {decoder}, &modern, "silu", true, false, ALWAYS},
    {"Qwen2ForCausalLM", "qwen2", "", {decoder, qwen2}, &modern, "silu", true, false, ASKED},
    {"Qwen3ForCausalLM", "qwen3", "", {decoder, qwen3}, &modern, "silu", true, false, ASKED},
    {"GPTJForCausalLM", "gptj", "transformer.", {gpt, gptj}, &early, "gelu_tanh", false, false, NEVER},
    {"GPT2LMHeadModel", "gpt2", "transformer.", {gpt, gpt2}, &early, "gelu_tanh", false, true, NEVER},
    {"BertForMaskedLM", "bert", "bert.", {encoder, bert_head}, &masked, "gelu", false, true, NEVER},
    {"BertModel", "bert", "bert.", {encoder}, &masked, "gelu", false, true, NEVER},
    // RoBERTa's head has GELU whatever its layers have.
    {"RobertaForMaskedLM", "bert", "roberta.", {encoder, roberta_head}, &masked, "gelu", true, true, NEVER},
    {"RobertaModel", "bert", "roberta.", {encoder}, &masked, "gelu", false, true, NEVER},
};
const int n_families = sizeof families / sizeof *families;
