curl -X POST \
  -H "Authorization: Bearer mk-YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "task_id": "unique-task-id",
    "task_type": "code_generation",
    "prompt": "Create a Python function to calculate fibonacci numbers",
    "context": {
      "user_id": "api-user",
      "session_id": "session-123",
      "environment": "api"
    },
    "persona_config": {
      "persona": "developer"
    }
  }' \
  http://localhost:8000/api/v1/execute
