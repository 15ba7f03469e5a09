curl -X POST \
  -H "Authorization: Bearer mk-YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"task_type":"code_analysis","prompt":"Review this code for security issues","files":[{"name":"app.py","content":"# your code here"}],"persona_config":{"persona":"reviewer"}}' \
  http://localhost:8000/api/v1/execute
