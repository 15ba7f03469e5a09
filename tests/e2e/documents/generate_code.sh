curl -X POST \
  -H "Authorization: Bearer mk-YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"task_type":"code_generation","prompt":"Create a Python class for handling API requests","persona_config":{"persona":"developer"}}' \
  http://localhost:8000/api/v1/execute
