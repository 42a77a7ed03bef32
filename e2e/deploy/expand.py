"""Gives the CloudFormation template that AWS makes of a SAM template, as MiniStack 1.5.33 can deploy it.

    expand.py TEMPLATE CODE OUTPUT [NAME=VALUE ...]

CODE is where the functions' archives are, s3://BUCKET/PREFIX; NAME=VALUE are the stack's parameters. The
expansion is AWS's own, aws-sam-translator, offline. What follows it are the work-arounds: each is for something
that MiniStack does otherwise than AWS, so that the product need not bend. Standard output has a report of what
became of what, by which the test sees to it that nothing is left out in silence.
"""

import json
import os
import sys

# The translator asks for a partition, which it takes from the region.
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

# Types for which MiniStack refuses a whole template ("Unrecognized resource types"). A resource of one is left out
# and reported with the reason. Other types that it does not know fail the deployment, until they are named here.
LEFT_OUT = {
    "AWS::CodeDeploy::Application": "MiniStack has no CodeDeploy: an alias moves to a new version at once",
    "AWS::CodeDeploy::DeploymentConfig": "MiniStack has no CodeDeploy: an alias moves to a new version at once",
    "AWS::CodeDeploy::DeploymentGroup": "MiniStack has no CodeDeploy: an alias moves to a new version at once",
    "AWS::WAFv2::LoggingConfiguration": "MiniStack keeps a web ACL and applies none",
    "AWS::WAFv2::WebACLAssociation": "MiniStack keeps a web ACL and applies none",
}

ANY = "x-amazon-apigateway-any-method"
METHODS = ["get", "head", "post", "put", "patch", "delete", "options"]
GATEWAY_RESPONSES = "x-amazon-apigateway-gateway-responses"


class NoNames:
    """AWS's managed policies by name, which the translator asks for before it looks into its own list."""

    def load(self):
        return {}


def expand(path, code, parameters):
    with open(path, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"{code}/{name}.zip"  # as sam package would
    return transform(template, parameters, NoNames())


def name_methods(body):
    """MiniStack imports no ANY method from an API's body. Each becomes the methods that there are."""
    routes = 0
    for item in body.get("paths", {}).values():
        if ANY in item:
            operation = item.pop(ANY)
            for method in METHODS:
                item.setdefault(method, operation)
        routes += 1
    return routes


def name_gateway_responses(resources, api):
    """MiniStack ignores the gateway responses in an API's body. Each becomes a resource of its own, which it
    applies; a deployment holds those of its moment, so it waits for them."""
    names = []
    for kind, response in resources[api]["Properties"]["Body"].pop(GATEWAY_RESPONSES, {}).items():
        names.append(api + "Response" + kind.title().replace("_", ""))
        properties = {key[0].upper() + key[1:]: value for key, value in response.items()}
        resources[names[-1]] = {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Properties": {"RestApiId": {"Ref": api}, "ResponseType": kind, **properties},
        }
    for resource in resources.values():
        if resource["Type"] == "AWS::ApiGateway::Deployment" and resource["Properties"]["RestApiId"] == {"Ref": api}:
            resource["DependsOn"] = depends_on(resource) + names
    return names


def leave_out(template):
    """Removes the resources of LEFT_OUT and what only orders others after them."""
    resources = template["Resources"]
    out = {name: r["Type"] for name, r in resources.items() if r["Type"] in LEFT_OUT}
    for name in out:
        del resources[name]
    for resource in resources.values():
        if "DependsOn" in resource:
            resource["DependsOn"] = [name for name in depends_on(resource) if name not in out]
        if "CodeDeployLambdaAliasUpdate" in resource.get("UpdatePolicy", {}):
            del resource["UpdatePolicy"]
    for part in ("Resources", "Outputs"):
        for name, value in template.get(part, {}).items():
            if missing := set(references(value)) & set(out):
                sys.exit(f"expand.py: {name} refers to {', '.join(sorted(missing))}, which MiniStack cannot create")
    return [{"id": name, "type": kind, "reason": LEFT_OUT[kind]} for name, kind in sorted(out.items())]


def depends_on(resource):
    value = resource.get("DependsOn", [])
    return [value] if isinstance(value, str) else list(value)


def references(value):
    """The logical ids that a value refers to."""
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "Ref":
                yield one
            elif key == "Fn::GetAtt":
                yield one.split(".")[0] if isinstance(one, str) else one[0]
            elif key == "Fn::Sub":
                text = one if isinstance(one, str) else one[0]
                yield from (part.split("}")[0].split(".")[0] for part in text.split("${")[1:])
            yield from references(one)


def main():
    path, code, output, *values = sys.argv[1:]
    template = expand(path, code, dict(value.split("=", 1) for value in values))
    resources = template["Resources"]
    report = {
        "resources": {
            name: {key: r.get(key, "") for key in ("Type", "Condition", "DeletionPolicy")} for name, r in resources.items()
        },
        "routes": 0,
        "added": [],
    }
    for name in [name for name, r in resources.items() if r["Type"] == "AWS::ApiGateway::RestApi"]:
        report["routes"] += name_methods(resources[name]["Properties"]["Body"])
        report["added"] += name_gateway_responses(resources, name)
    report["leftOut"] = leave_out(template)
    with open(output, "w", encoding="utf-8") as file:
        json.dump(template, file)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
