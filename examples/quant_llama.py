"""Quantizes a Llama 3.1 model to W8A8 with FA3, with the guide's settings for Llama3.1-70B.

    fa3 patch MODEL
    python quant_llama.py --model-path MODEL --save-directory OUTPUT --calib-file boolq.jsonl

Each line of the calibration file is a question of BoolQ, {"title": ..., "passage": ..., "question": ...}, or a
complete text, {"inputs_pretokenized": ...}. `fa3 verify OUTPUT` checks the saved model.
"""

import argparse
import json

from transformers import AutoModelForCausalLM, AutoTokenizer

from fa3cli import AntiOutlier, AntiOutlierConfig, Calibrator, QuantConfig

SAMPLES = 50


def parse_args():
    parser = argparse.ArgumentParser(description="Quantizes a Llama 3.1 model to W8A8 with FA3.")
    parser.add_argument("--model-path", required=True, help="weights folder, patched by fa3 patch")
    parser.add_argument("--save-directory", required=True, help="new folder for the quantized model")
    parser.add_argument("--calib-file", required=True, help="calibration text, one JSON object per line")
    parser.add_argument("--dev-type", default="cpu", help="device of the model")
    parser.add_argument("--part-file-size", type=float, help="largest weights file in GB (default: one file)")
    return parser.parse_args()


def prompt(record):
    if "inputs_pretokenized" in record:
        return record["inputs_pretokenized"]
    return f"{record['title']} -- {record['passage']}\nQuestion:{record['question']}?\nAnswer:"


def calibration_data(path, tokenizer, device):
    with open(path, encoding="utf-8") as file:
        texts = [prompt(json.loads(line)) for line in file if line.strip()]
    samples = [tokenizer(text, return_tensors="pt").to(device) for text in texts[:SAMPLES]]
    return [[sample["input_ids"], sample["attention_mask"]] for sample in samples]


def main():
    args = parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model_path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(args.model_path, trust_remote_code=True, torch_dtype="auto")
    model = model.to(args.dev_type).eval()

    calib_data = calibration_data(args.calib_file, tokenizer, model.device)
    anti_config = AntiOutlierConfig(anti_method="m3", dev_type=args.dev_type, dev_id=model.device.index)
    AntiOutlier(model, calib_data=calib_data, cfg=anti_config).process()

    disable_names = []
    for layer_index in range(model.config.num_hidden_layers):
        disable_names.append(f"model.layers.{layer_index}.mlp.down_proj")

    quant_config = QuantConfig(
        a_bit=8,
        w_bit=8,
        disable_names=disable_names,
        dev_type=args.dev_type,
        dev_id=model.device.index,
        act_method=3,
        pr=1.0,
        w_sym=True,
        mm_tensor=False,
    ).fa_quant(fa_amp=0)
    calibrator = Calibrator(model, quant_config, calib_data=calib_data, disable_level="L5")
    calibrator.run()
    calibrator.save(args.save_directory, save_type=["safe_tensor"], part_file_size=args.part_file_size)


if __name__ == "__main__":
    main()
