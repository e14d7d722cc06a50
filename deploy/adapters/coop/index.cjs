// Signals for Coop that ask `unlensed api`; see README.md beside this file.
"use strict";

const DECISION = "UNLENSED_DECISION", SCORE = "UNLENSED_SCORE";
const OUTCOMES = ["no_face", "not_scored", "pass", "review", "flag"];
const TIMEOUT_MS = 90_000;

const section = (id, title, label, value) => ({ id, title, fields: [{ label, value }] });

const modelCard = {
  modelName: "unlensed",
  version: "0.1.0",
  sections: [
    section("trainingData", "Training data", "Data", "Photographs only, no generated image. The model card of the bundle lists them: GET /v1/bundle."),
    section("policyAndTaxonomy", "Policy and taxonomy", "Decisions", "pass, review, flag under a policy that states the share of photographs flagged by mistake."),
    section("annotationMethodology", "Annotation methodology", "Labels", "None: the mixture is fitted to photographs, and calibrated on held-out ones."),
    section("performanceBenchmarks", "Performance and benchmarks", "Figures", "The evaluation of the bundle: GET /v1/bundle."),
    section("biasAndLimitations", "Bias and limitations", "Meaning", "flag: unlike the photographs the bundle knows, not proof that a face is generated. pass: not proof that it is a photograph. A person decides."),
    section("implementationGuidance", "Implementation guidance", "Rules", "Send flag and review to people; do not act on a score alone."),
    section("relevantLinks", "Relevant links", "Explanation", "POST /v1/score with \"explain\": true answers why a face got its score."),
  ],
};

const manifest = {
  id: "UNLENSED",
  name: "unlensed",
  version: "0.1.0",
  description: "Flags faces that are unlike any photograph its bundle knows.",
  requiresConfig: true,
  configurationFields: [
    { key: "url", label: "Address", required: true, inputType: "text", placeholder: "https://unlensed.example:8000", description: "Of `unlensed api`." },
    { key: "token", label: "Token", required: false, inputType: "password", description: "A line of its file of tokens." },
  ],
  signalTypeIds: [DECISION, SCORE],
  modelCard,
};

async function score(input, config) {
  const url = input.value.value.url, id = input.contentId ?? url;
  const headers = { "Content-Type": "application/json", ...(config.token && { Authorization: `Bearer ${config.token}` }) };
  const body = JSON.stringify({ request_id: id, content_id: id, image: { uri: url } });
  const answer = await fetch(new URL("/v1/score", config.url), { method: "POST", headers, body, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const result = await answer.json();
  if (result.error) throw new Error(`unlensed refused: ${result.error.message}`);
  if (result.reason_codes.includes("forbidden_uri")) throw new Error(`unlensed may not read the image: ${result.detail}`);
  return result;
}

function nameOutcome(result) {
  return result.decision ?? (result.status === "no_face" ? "no_face" : "not_scored");
}

function createSignals({ integrationId, getCredential }) {
  const make = (type, displayName, description, outputType, recommendedThresholds, read) => ({
    signalTypeId: type,
    signal: {
      id: { type }, displayName, description, outputType, recommendedThresholds,
      docsUrl: null,
      supportedLanguages: "ALL",
      pricingStructure: { type: "FREE" },
      eligibleInputs: ["IMAGE"],
      getCost: () => 1,
      needsMatchingValues: false,
      eligibleSubcategories: [],
      needsActionPenalties: false,
      integration: integrationId,
      allowedInAutomatedRules: true,
      run: async (input) => ({ outputType, score: read(await score(input, await getCredential(input.orgId))) }),
      getDisabledInfo: async (orgId) => (await getCredential(orgId))?.url
        ? { disabled: false }
        : { disabled: true, disabledMessage: "Set the address of `unlensed api` in the integration's settings." },
    },
  });
  return [
    make(DECISION, "Unlike photographs: decision", "What the policy of the service decides for an image; no_face and not_scored are no decision.",
      { scalarType: "STRING", enum: OUTCOMES, ordered: false }, null, nameOutcome),
    make(SCORE, "Unlike photographs: score", "1 minus the p-value of the least typical face: the share of photographs that are more typical. No face, no score: an error.",
      { scalarType: "NUMBER" }, { highPrecisionThreshold: 0.99, highRecallThreshold: 0.95 }, (result) => {
        if (result.score === null) throw new Error(`unlensed gives no score: ${nameOutcome(result)}`);
        return result.score;
      }),
  ];
}

module.exports = { manifest, createSignals };
