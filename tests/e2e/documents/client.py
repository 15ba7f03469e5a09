import requests
import json


class MonkeyCoderClient:
    def __init__(self, base_url="http://localhost:8000", api_key=None):
        self.base_url = base_url
        self.api_key = api_key
        self.headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {api_key}" if api_key else "",
        }

    def execute_task(self, prompt, task_type="code_generation"):
        data = {
            "task_id": f"task-{hash(prompt)}",
            "task_type": task_type,
            "prompt": prompt,
            "context": {
                "user_id": "api-user",
                "session_id": "session-1",
                "environment": "python-client",
            },
            "persona_config": {"persona": "developer"},
        }

        response = requests.post(f"{self.base_url}/api/v1/execute", headers=self.headers, json=data)
        return response.json()


# Usage
client = MonkeyCoderClient(api_key="mk-YOUR_API_KEY")
result = client.execute_task("Create a REST API endpoint")
print(result)
